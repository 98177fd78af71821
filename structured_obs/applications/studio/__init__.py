"""What the studio in the browser does, without the browser: sessions, strokes, views, exports.

`session` is all that a page remembers, as plain JSON; `strokes` turns what was painted into pixels and
rectangles; `desk` holds an opened run and its compiled programs; `views` makes the pictures of a page,
`canvas` the one that is painted on; `files` exports them and reads uploads; `recipes` writes the command
line and the Python that give the same. The page itself is launch/studio.py.
"""
