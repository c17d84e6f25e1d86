"""One module a verb. Import nothing heavy at module level: it would cost every command its start-up."""
