"""Messages on the wire: requests, replies, blobs, snapshots, manifests and questions about masks, as bytes."""
