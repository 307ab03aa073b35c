# Dataflow logs how each job ended; one line of a failed job is enough to be told.
resource "google_monitoring_alert_policy" "failed" {
  display_name          = "Nightshift: a job failed"
  combiner              = "OR"
  notification_channels = var.alert_channels

  conditions {
    display_name = "a job failed"
    condition_matched_log {
      filter = <<-EOT
        resource.type="dataflow_step"
        resource.labels.job_name=~"^nightshift"
        log_id("dataflow.googleapis.com/job-message")
        severity>=ERROR
        textPayload=~"Workflow failed"
      EOT
    }
  }

  alert_strategy {
    notification_rate_limit {
      period = "300s"
    }
    auto_close = "86400s"
  }

  documentation {
    content   = "The manifest.json in the job's output says why; docs/operations.md, \"At three in the morning\", what to do."
    mime_type = "text/markdown"
  }

  depends_on = [google_project_service.service]
}
