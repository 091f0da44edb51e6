"""The law that institutions and coordinator obey: numpy, pydantic and tenseal; never torch, never flwr.

Import the modules by name: nothing is re-exported here, so that the coordinator can import
`common.adding` without `common.opening`.
"""
