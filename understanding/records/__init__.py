"""Where the records of conversations lie: files of JSON, tables, tars. What they say is `understanding.layouts`'."""
