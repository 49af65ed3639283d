"""A repair as a job: photos and rounds on disk, the queue, and the worker that feeds the engine.

`errors` what goes wrong and its stable code, `files` atomic writes, `store` SQLite rows, `cleanup` what is deleted, and
when, `photos` stored bytes into arrays and back, `request` what a caller may ask, `worker` one device's thread, `saver`
the outputs folder, `local` the queue that ties them together. Knows nothing of HTTP or Gradio; the engine is anything
with `repair_many` and `describe`.
"""
