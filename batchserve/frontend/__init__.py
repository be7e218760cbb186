"""Turns bytes into requests and answers into bytes. No batching rule lives here."""
