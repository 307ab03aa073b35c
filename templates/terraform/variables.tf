variable "project" {
  description = "The Google Cloud project."
  type        = string
}

variable "region" {
  description = "Where everything runs and lies, such as europe-west1."
  type        = string
}

variable "schedule" {
  description = "When the job starts, in cron's five fields."
  type        = string
  default     = "0 3 * * *"
}

variable "time_zone" {
  description = "Whose clock the schedule and {date} go by."
  type        = string
  default     = "Etc/UTC"
}

variable "parameters" {
  description = "The job's flags by name, as nightshift run takes them: model, input, output, key_field, …"
  type        = map(string)

  validation {
    condition     = alltrue([for name in ["model", "input", "output"] : contains(keys(var.parameters), name)])
    error_message = "parameters need model, input and output."
  }
}

variable "machine_type" {
  description = "The workers' machine. TensorFlow and rows need 2 GB a core."
  type        = string
  default     = "n2-standard-4"
}

variable "max_workers" {
  description = "At most so many workers."
  type        = number
  default     = 10
}

variable "marker" {
  description = "A regular expression of the objects that start a job when they land; empty: none do."
  type        = string
  default     = ""
}

variable "alert_channels" {
  description = "Monitoring's notification channels that are told of a failed job."
  type        = list(string)
  default     = []
}
