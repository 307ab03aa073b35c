locals {
  template = "gs://${google_storage_bucket.data.name}/templates/nightshift.json"
  temp     = "gs://${google_storage_bucket.data.name}/tmp"
}

# The job's name is the same every night: while one is active, Dataflow refuses another, so that no two overlap.
resource "google_cloud_scheduler_job" "nightly" {
  name             = "nightshift"
  region           = var.region
  schedule         = var.schedule
  time_zone        = var.time_zone
  attempt_deadline = "180s"

  retry_config {
    retry_count = 3
  }

  http_target {
    http_method = "POST"
    uri         = "https://dataflow.googleapis.com/v1b3/projects/${var.project}/locations/${var.region}/flexTemplates:launch"
    headers = {
      "Content-Type" = "application/json"
    }
    body = base64encode(jsonencode({
      launchParameter = {
        jobName              = "nightshift"
        containerSpecGcsPath = local.template
        parameters           = merge({ time_zone = var.time_zone }, var.parameters)
        environment = {
          machineType         = var.machine_type
          maxWorkers          = var.max_workers
          serviceAccountEmail = google_service_account.worker.email
          tempLocation        = local.temp
          flexrsGoal          = "FLEXRS_COST_OPTIMIZED"
        }
      }
    }))

    oauth_token {
      service_account_email = google_service_account.launcher.email
      scope                 = "https://www.googleapis.com/auth/cloud-platform"
    }
  }

  depends_on = [google_project_service.service]
}

resource "google_workflows_workflow" "on_event" {
  count           = var.marker == "" ? 0 : 1
  name            = "nightshift-on-event"
  region          = var.region
  service_account = google_service_account.launcher.email
  source_contents = file("${path.module}/../events/workflow.yaml")

  user_env_vars = {
    REGION         = var.region
    TEMPLATE       = local.template
    MARKER         = var.marker
    MODEL          = var.parameters["model"]
    KEY_FIELD      = lookup(var.parameters, "key_field", "")
    OUTPUT         = var.parameters["output"]
    WORKER_ACCOUNT = google_service_account.worker.email
    TEMP_LOCATION  = local.temp
  }

  depends_on = [google_project_service.service]
}

# Cloud Storage tells Eventarc through Pub/Sub, in the name of its own account.
data "google_storage_project_service_account" "storage" {}

resource "google_project_iam_member" "storage_publishes" {
  count   = var.marker == "" ? 0 : 1
  project = var.project
  role    = "roles/pubsub.publisher"
  member  = "serviceAccount:${data.google_storage_project_service_account.storage.email_address}"
}

resource "google_eventarc_trigger" "marker" {
  count           = var.marker == "" ? 0 : 1
  name            = "nightshift-marker"
  location        = var.region
  service_account = google_service_account.launcher.email

  matching_criteria {
    attribute = "type"
    value     = "google.cloud.storage.object.v1.finalized"
  }
  matching_criteria {
    attribute = "bucket"
    value     = google_storage_bucket.data.name
  }

  destination {
    workflow = google_workflows_workflow.on_event[0].id
  }

  depends_on = [google_project_iam_member.storage_publishes]
}
