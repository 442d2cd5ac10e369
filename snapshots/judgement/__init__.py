"""How a day is judged: values, what is usual of them, rules, and the sentences they give."""
