output "image" {
  description = "The name to build and push the image under, without its tag."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}/nightshift"
}

output "template" {
  description = "Where make template has to write the container spec."
  value       = local.template
}

output "worker_account" {
  description = "The account that jobs run as: let it read what lies in other projects."
  value       = google_service_account.worker.email
}
