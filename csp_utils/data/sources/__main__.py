"""The command line of the catalogue; see :mod:`csp_utils.data.sources`."""

import sys

from csp_utils.base.errors import UserError
from csp_utils.data import sources
from csp_utils.data.fetching import fetch


def main(arguments: list[str]) -> str:
    """List the sources or download some of them; return the text to print."""
    every = sources.catalogue()
    if not arguments or arguments == ["list"]:
        return sources.listed(every)
    if arguments[0] != "fetch" or len(arguments) < 2:
        raise UserError("usage: python -m csp_utils.data.sources [list | fetch NAME ...]")
    return "\n".join(str(fetch(sources.get(name, every))) for name in arguments[1:])


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
