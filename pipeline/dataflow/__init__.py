"""Jobs on Google Dataflow: ``nightshift launch``, ``nightshift schedule``, the Flex Template."""
