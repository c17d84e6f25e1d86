"""How many blocks a request holds, where that is not "one for every so many tokens"."""
