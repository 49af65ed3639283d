"""A repair as a job: knows files, not HTTP.

`errors` what goes wrong and its stable code, `store` SQLite rows, `images` stored bytes to arrays and back,
`request_parsing` what a caller may ask, `worker` one device's thread, `output_writer` the outputs folder, `retention`
what is deleted and when, `model_switch` other weights, `queue` ties them together. The engine is anything with
`repair_many` and `describe`.
"""
