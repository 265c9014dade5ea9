"""The durable way of a study from complete to confirmed; the one place that strings the steps together.

    sweep   -> study(uid, revision)      route, make a run for each wanted series
            -> prior(run)                find and fetch a prior study, where the algorithm compares with one
            -> analyse(run)              prepare, infer, encode, check
            -> deliver(run, to, attempt) send, confirm; on failure the next attempt, later

Each arrow is a row that commits together with the state it follows from (DBOS, ``enqueue_in_transaction``), under
an id derived from what it is about: whatever is killed wherever, each happens, and a repeat changes nothing.
"""
