"""Readers of samples that are not kept in memory: files of images and clips, rows of tables, and a user's own Dataset."""
