"""Everything `embedtui demo` brings along: a database, documents, questions, two models and some traffic."""
