# All that a nightly job needs in a project: a bucket, a registry, accounts, the schedule, the event and the alert.
# The job itself is no resource: Terraform would start a finished one anew at each apply. Cloud Scheduler starts it.
terraform {
  required_version = ">= 1.7"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.0, < 8.0"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region
}

locals {
  services = [
    "artifactregistry.googleapis.com",
    "cloudscheduler.googleapis.com",
    "compute.googleapis.com",
    "dataflow.googleapis.com",
    "eventarc.googleapis.com",
    "monitoring.googleapis.com",
    "workflows.googleapis.com",
  ]
}

resource "google_project_service" "service" {
  for_each           = toset(local.services)
  service            = each.value
  disable_on_destroy = false
}

resource "google_storage_bucket" "data" {
  # checkov:skip=CKV_GCP_62: who read what is in the project's audit logs, with no second bucket to keep
  # checkov:skip=CKV_GCP_78: staging is renamed and deleted by every run; versions would keep, and bill, all of it
  name                        = "${var.project}-nightshift"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # What a job that was killed left behind, and Dataflow's own temporary files.
  lifecycle_rule {
    condition {
      age            = 7
      matches_prefix = ["tmp/"]
    }
    action {
      type = "Delete"
    }
  }
}

resource "google_artifact_registry_repository" "images" {
  # checkov:skip=CKV_GCP_84: the image holds no data; Google's own key encrypts it
  repository_id = "nightshift"
  location      = var.region
  format        = "DOCKER"
  depends_on    = [google_project_service.service]
}
