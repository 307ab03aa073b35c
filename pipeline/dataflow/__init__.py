"""Jobs on Google Dataflow: launched, scheduled, as a Flex Template."""
