"""What must survive a crash: the log, and the state that it adds up to.

Every change is one entry of the log, appended in the transaction that changes the
state. Records are kept, byte for byte, as their author wrote them; columns beside them
are derived, for queries. This room knows no HSM: MACs are given to it, and whoever
reads has them checked. What it checks itself is that log and state agree, and that
the log is one unbroken chain.

It is the only room that knows SQL. SQLite serves one machine; the same schema runs on
PostgreSQL. Other rooms see `store.Store`, which satisfies the port of the vault.
"""
