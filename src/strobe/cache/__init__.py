"""The KV cache as a data structure: integers on the host, arrays in one file.

    Pages    which pages are free, and how many hold each of the others
    Table    the pages of one sequence, in order; copy on write
    Prefix   which pages already hold these tokens
    Storage  the arrays themselves, in a format of `formats`

A page is in use while its count is above 0. Whoever holds a page (a table, the prefix tree) holds one count of it.
Nothing here is changed by a call that raises.
"""
