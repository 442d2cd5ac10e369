"""The Airflow DAGs. One file per kind; each file reads like the list of its steps."""
