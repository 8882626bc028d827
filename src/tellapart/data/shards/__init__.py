"""Files that hold many pictures each: tar shards, Parquet with picture bytes, Arrow of `datasets`.

A picture in one is named SHARD#MEMBER, such as photos-000.tar#cat/001.jpg or train.parquet#12 (the
row), and can be read by that name in any process. Shards are read as streams, in order; what a
first reading found (names, labels, places, hashes) is kept while the file is as it was.
"""
