"""The dashboard in a browser, on this machine unless told otherwise."""
