"""The command line, songs on disk, the page in a browser: each calls one function of a room below."""
