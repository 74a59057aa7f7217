"""Any command of the other rooms on a cluster: submitted, watched over, requeued, looked at."""
