"""Kinds of exchange between coordinator and institutions, one a file; `dictpfl.server.coordinator` chooses the next."""
