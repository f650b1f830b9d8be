"""Registrations of tasks and mixtures; import the module of the collection you want, such as `tasks.starter`."""
