"""Task `mbpp` (code): short Python functions with three assertions each; 374 to train on, 500 held out."""

from __future__ import annotations

from types import MappingProxyType

from bgpo.tasks.base import Problem, TaskError
from bgpo.tasks.code import CodeTask, names_defined
from bgpo.tasks.data import HubTable, Row, text_of
from bgpo.tasks.listed import clipped, question_of
from bgpo.tasks.sandbox import Tests

_HUB = "google-research-datasets/mbpp"
# problems 2 to 4 of the set's prompt part, which no split holds: the three examples of every published evaluation
_EXAMPLES = (
    (
        "Write a function to find the similar elements from the given two tuple lists.",
        "assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)\n"
        "assert similar_elements((1, 2, 3, 4),(5, 4, 3, 7)) == (3, 4)\n"
        "assert similar_elements((11, 12, 14, 13),(17, 15, 14, 13)) == (13, 14)",
        "def similar_elements(test_tup1, test_tup2):\n"
        "  res = tuple(set(test_tup1) & set(test_tup2))\n  return (res)",
    ),
    (
        "Write a python function to identify non-prime numbers.",
        "assert is_not_prime(2) == False\nassert is_not_prime(10) == True\nassert is_not_prime(35) == True",
        "import math\ndef is_not_prime(n):\n    result = False\n    for i in range(2,int(math.sqrt(n)) + 1):\n"
        "        if n % i == 0:\n            result = True\n    return result",
    ),
    (
        "Write a function to find the largest integers from a given list of numbers using heap queue algorithm.",
        "assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],3)==[85, 75, 65]\n"
        "assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],2)==[85, 75]\n"
        "assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],5)==[85, 75, 65, 58, 35]",
        "import heapq as hq\ndef heap_queue_largest(nums,n):\n  largest_nums = hq.nlargest(n, nums)\n"
        "  return largest_nums",
    ),
)


class Mbpp(CodeTask):
    """bgpo: three worked examples, then the problem with its tests, code between [BEGIN] and [DONE]."""

    name = "mbpp"
    title = "MBPP (code)"
    prompt_length = 1024
    placeholder = "Write a function to find the shared elements from the given two lists."
    example = "Write a function to find the shared elements ... → def similar_elements(...)"
    published = MappingProxyType({
        "train": HubTable(_HUB, "full", "train"), "validation": HubTable(_HUB, "full", "validation"),
        "test": HubTable(_HUB, "full", "test"),
    })

    def problem_of(self, row: Row) -> Problem:
        question, reference = question_of(row, "text", "prompt"), text_of(row, "code")
        listed = [str(test) for test in row.get("test_list") or ()]
        names = names_defined(reference, listed)
        if not names:
            raise TaskError(
                f"The row of {clipped(question)!r} has no test in test_list that calls what its code defines; mend it."
            )
        imports = row.get("test_imports") or ()
        setup = "\n".join([str(row.get("test_setup_code") or ""), *map(str, imports)])
        shown = "\n".join(listed)
        if self.protocol == "bgpo":
            prompt = "\n\n".join(
                [f"{_ask(*example[:2])}\n[BEGIN]\n{example[2]}\n[DONE]" for example in _EXAMPLES]
                + [f"{_ask(question, shown)}\n[BEGIN]"]
            )
        else:
            prompt = self.asked(f"{question}\nYour code should pass these tests:\n{shown}")
        return Problem(prompt, reference, {
            "question": question, "head": "", "tests": Tests(tuple(listed), names, setup),
        })


def _ask(question: str, tests: str) -> str:
    return (
        f"You are an expert Python programmer, and here is your task: {question} Your code should pass these tests:\n\n"
        f"{tests}"
    )
