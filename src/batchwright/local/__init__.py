"""A run of the engine inside this process, for `batchwright run` and the library's `run`.

plan_file / plan_rows   what is to be done, checked whole          (job)
open_state, settle_state  the folder beside the output, and whether the run goes on  (state)
run_job                 the engine, from the first request to the output  (runner)
"""
