"""`dictpfl audit numbers`: digits of data and of models against what is to be expected."""
