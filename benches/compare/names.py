"""Comma-separated names on the command line of the benches."""

import argparse


def names_of(known):
    """A parser of comma-separated names that keeps the order of the known ones."""
    def parse(text):
        given = text.split(",")
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"`{name}` is not one of {', '.join(known)}")
        return [name for name in known if name in given]
    return parse
