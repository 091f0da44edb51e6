"""Running a federation across machines: certificates, Flower's processes, the pinned app, status.

Nothing is imported here: the coordinator's processes load parts of this package, and must stay without torch.
"""
