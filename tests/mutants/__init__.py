"""Single faults put into SQL and Python, to see whether a test notices: ``make mutants``.

It lies beside the tests because it knows them: which of them touch a file. Nothing here is named test_*, so pytest
collects none of it, and no package contains it.
"""
