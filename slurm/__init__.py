"""Any command of the other packages on a cluster: submitted, watched over, requeued, listed."""
