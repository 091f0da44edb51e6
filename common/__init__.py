"""Code that coordinator and institutions share: numpy, pydantic and tenseal; never torch, never flwr.

Import the modules by name: nothing is re-exported here, so that the coordinator can import
`dictpfl.common.ckks.adding` without `dictpfl.common.ckks.opening`.
"""
