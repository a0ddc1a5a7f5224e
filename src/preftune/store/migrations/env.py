"""Run by alembic: use the connection that `migrate` gives."""

from alembic import context

from preftune.store.job_schema import jobs

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=jobs.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
