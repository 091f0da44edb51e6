"""The institution's side: model, data, training and memory; the only side that imports torch.

Import the modules by name: nothing is re-exported here, so that `dictpfl.client.data.source` stays cheap to import.
"""
