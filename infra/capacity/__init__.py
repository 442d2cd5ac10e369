"""How many hosts a day of so many users, requests and examples needs, from rates that were measured."""
