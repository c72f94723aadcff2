"""Sweeps that survive anything: planned, cut into shards, run anywhere, stored shard by shard, resumed and verified."""
