"""Several courses at once: each goes on by itself, with steps of its own, and their questions are answered together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from grsd.flow.questions import AtPoint, Course, Kernel, Numbers, Question, T
from grsd.flow.stacked import Stacked
from grsd.support.host import read


def answered_together(stacked: Stacked, courses: Iterable[Course[T]]) -> list[T | Exception]:
    """Run courses to their ends and return the result of each, or the exception that ended it.

    Numbers are read first, for all that wait for some, in one passage. Then the kind of question is answered that most
    courses wait for; the others wait, so that theirs will be many too. A course that fails or ends early disturbs none.
    """
    courses = list(courses)
    ends: dict[int, T | Exception] = {}
    waiting: dict[int, Question] = {}

    def go_on(place: int, answer: object) -> None:
        course = courses[place]
        try:
            waiting[place] = course.throw(answer) if isinstance(answer, Exception) else course.send(answer)
        except StopIteration as end:
            ends[place] = end.value
        except Exception as error:  # that of one course alone
            ends[place] = error

    try:
        for place in range(len(courses)):
            go_on(place, None)
        while waiting:
            chosen = _most_wanted(waiting)
            questions = [waiting.pop(place) for place in chosen]
            numbers = [question for question in questions if isinstance(question, Numbers)]
            others = [question for question in questions if isinstance(question, AtPoint)]
            try:
                answers = _numbers(numbers) if numbers else stacked.answers(others)
            except Exception as error:
                answers = [error] * len(chosen)
            for place, answer in zip(chosen, answers, strict=True):
                go_on(place, answer)
    finally:
        for course in courses:
            course.close()
    return [ends[place] for place in range(len(courses))]


def _most_wanted(waiting: dict[int, Question]) -> list[int]:
    kinds: dict[object, list[int]] = {}
    for place, question in waiting.items():
        without = isinstance(question, Kernel) and question.direction is None
        kinds.setdefault((type(question), without), []).append(place)
    return kinds.get((Numbers, False)) or max(kinds.values(), key=len)


def _numbers(questions: Sequence[Numbers]) -> list[list]:
    found = iter(read(scalar for question in questions for scalar in question.scalars))
    return [[next(found) for _ in question.scalars] for question in questions]
