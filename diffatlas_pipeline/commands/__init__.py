"""One file per console script: parse the arguments, call the api, print."""
