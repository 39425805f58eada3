"""Extracted codes on disk: made by a fleet, named by what they were made from, and read in windows.

    CODES/codes.json                     what all of them have in common: `facts.CodeFacts`
    CODES/sources/NAME.json              a source as it was last extracted: its parts, and the files of each (`record`)
    CODES/shards/ID.safetensors          codes, keys, and what was left out, of one part (`shard`)
    CODES/captions/ID.safetensors        captions of one shard, which are replaced without encoding again (`shard`)
    CODES/leases/                        who is at work on what (`leases`)

Making them: `jobs` says what is to be done, a `worker` does it. Reading them: `library`.
"""
