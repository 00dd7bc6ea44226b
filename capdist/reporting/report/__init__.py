"""The report of one run or several: one self-contained HTML file.

`files` reads run folders, `training`, `scores`, `failures` and `gallery` collect `data.Report` from
them, and `page` renders it with the files in ``static``.
"""
