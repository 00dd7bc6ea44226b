"""The commands, one file each: their options, and which function of the lower layers they call.

``HELP`` is the command's line in ``capdist --help``; ``add_arguments(parser)`` adds its options;
``run(args)`` runs it and returns its exit status. Modules that take long to import (torch, Ray) are
imported by ``run``, so that ``--help`` and mistakes in the options are answered at once.
"""
