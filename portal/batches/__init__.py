"""The life of an uploaded line, from the file that somebody hands in to the file that holds its answer.

1. `intake`: a file comes in, through /v1/files or the page, and is complete on disk (`contents`); a batch of it is made.
2. `passes`: someone looks at the batches that are not over and moves each as far as it goes.
3. `ingestion`: a batch that validates has its lines judged (`lines`), and all are queued at once, or none.
4. `claims`: a pilot takes a line, which is read from the file then; once it has ended it waits in an outbox.
5. `output`: lines that have ended are written to the batch's output and error files, each once.
6. `cancellation`: the owner wants no more of it; `passes` ends what waits, and the batch once each line's end is written.
7. `erasure`: a file that no live batch needs goes, at its owner's wish or when its time is over (`expiry`).

`transitions` is the only code that moves a batch, on `values`; `queries` reads rows. The tables are portal.ledger's: a
line is a request as any other, and how it is run and ended is the ledger's affair.
"""
