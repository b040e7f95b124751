"""One file a verb: each a function over an opened run that returns a frozen value; nothing here prints."""
