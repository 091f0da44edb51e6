"""Who makes the key, who receives it, and the proof of both: identities, bundles, rotation, custody."""
