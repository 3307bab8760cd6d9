"""Commands beside fit, validate, test and predict; each module has a `main(arguments)`."""
