# Three accounts, each with what it needs and no more; docs/operations.md says why each role is there.
resource "google_service_account" "worker" {
  account_id   = "nightshift-worker"
  display_name = "Nightshift: reads, predicts, writes"
}

resource "google_service_account" "launcher" {
  account_id   = "nightshift-launcher"
  display_name = "Nightshift: starts jobs"
}

resource "google_project_iam_member" "worker" {
  for_each = toset([
    "roles/dataflow.worker",
    "roles/bigquery.jobUser",
    "roles/bigquery.readSessionUser",
  ])
  project = var.project
  role    = each.value
  member  = google_service_account.worker.member
}

resource "google_storage_bucket_iam_member" "worker" {
  bucket = google_storage_bucket.data.name
  role   = "roles/storage.objectUser"
  member = google_service_account.worker.member
}

resource "google_artifact_registry_repository_iam_member" "worker" {
  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.worker.member
}

resource "google_project_iam_member" "launcher" {
  # checkov:skip=CKV_GCP_49: jobs belong to a project; the one account that they may run as is bound to the account itself, below
  for_each = toset([
    "roles/dataflow.developer",
    "roles/eventarc.eventReceiver",
    "roles/workflows.invoker",
    "roles/logging.logWriter",
  ])
  project = var.project
  role    = each.value
  member  = google_service_account.launcher.member
}

# The launcher starts jobs that run as the workers' account.
resource "google_service_account_iam_member" "launcher" {
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.launcher.member
}

resource "google_storage_bucket_iam_member" "launcher" {
  bucket = google_storage_bucket.data.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.launcher.member
}
