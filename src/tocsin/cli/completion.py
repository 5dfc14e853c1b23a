"""`tocsin completion`: the script that completes commands and options in a shell."""

import sys
from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the script that completes commands and options with the tab key.

    bash: source <(tocsin completion bash). zsh: save it as _tocsin in a folder of $fpath. fish: tocsin completion fish | source.

    Parameters
    ----------
    shell
        The shell that the script is for.
    """
    from tocsin.cli.commands import app

    sys.stdout.write(app.generate_completion(shell=shell))
