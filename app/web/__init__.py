"""The dashboard: pages for people, beside the API and on the same port."""
