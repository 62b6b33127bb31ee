"""A script of tasks that another process asks for, one a call."""

import json

from utils import Parser


def do_task(script, description, tasks, argv):
    """What the task that the command line names returns: it is JSON, [name, {option: value}].

    Args:
        script: str, the file's name.
        description: its docstring, of which the first paragraph is shown.
        tasks: dict of functions by name.
        argv: list of str.
    """
    parser = Parser(
        prog=f"experiments/{script}",
        description=description.split("\n\n")[0],
        usage=f"python experiments/{script} TASK",
        epilog=f"tasks: {', '.join(tasks)}",
    )
    parser.add_argument("task", metavar="TASK", type=json.loads, help="JSON: [name, {option: value}]")
    name, options = parser.parse_args(argv).task
    return tasks[name](**options)
