# A role holds the permissions for one kind of place, and is bound with a condition that names the place. Managed folders would tell
# prefixes apart too, but not "the leases of every run", and a bucket without a prefix has none.

locals {
  # To replace an object takes storage.objects.delete: who lacks it can create, and never overwrite.
  # Source: https://cloud.google.com/storage/docs/access-control/iam-json
  roles = {
    read = {
      title       = "reads objects"
      permissions = ["storage.objects.get"]
    }
    write = {
      title = "creates and reads objects"
      permissions = [
        "storage.multipartUploads.abort",
        "storage.multipartUploads.create",
        "storage.multipartUploads.listParts",
        "storage.objects.create",
        "storage.objects.get",
      ]
    }
    release = {
      title       = "deletes records that are its own to delete"
      permissions = ["storage.objects.delete"]
    }
    lease = {
      title       = "puts and deletes leases"
      permissions = ["storage.objects.create", "storage.objects.delete"]
    }
    collect = {
      title = "deletes checkpoints"
      permissions = [
        "storage.multipartUploads.abort",
        "storage.multipartUploads.listParts",
        "storage.objects.create",
        "storage.objects.delete",
        "storage.objects.get",
      ]
    }
    list = {
      title       = "lists objects"
      permissions = ["storage.objects.list"]
    }
    uploads = {
      title       = "lists unfinished uploads"
      permissions = ["storage.multipartUploads.list"]
    }
  }

  granted = {
    trainer = ["write", "release", "list", "uploads"]
    reader  = concat(["read", "list"], var.reader_leases ? ["lease"] : [])
    gc      = ["collect", "list", "uploads"]
  }

  # Requests for lists are about the bucket, whatever they ask for: names of the whole bucket can be listed, and no more. That what they ask
  # for can be looked at is so for access boundaries alone; in a role's condition it makes requests fail.
  # Source: https://cloud.google.com/iam/docs/conditions-attribute-reference#cloud-storage-api-attributes
  # Whoever may not list is told of a missing object that it is forbidden.
  bucket  = "projects/_/buckets/${var.bucket_name}"
  begin   = var.prefix == "" ? "" : "${var.prefix}/"
  objects = "resource.name.startsWith(\"${local.bucket}/objects/${local.begin}\")"
  listing = "resource.name == \"${local.bucket}\""

  # A file of a checkpoint may lie in a folder of any name: what is below one of these is never taken for a lease or a journal. A condition
  # holds 12 operators at most.
  kept = join("", [
    for folder in ["data", "manifests", "writers", "ranks", "launches", "pins", "aliases"] :
    " && resource.name.extract(\"/${folder}/{rest}\") == \"\""
  ])
  records = {
    # Leases are taken back; a rank that starts again replaces its journal, and one that lost to gc its mark; a good check lifts a quarantine;
    # the doctor clears away what it tried with.
    release = ["/leases/", "/journals/", "/quarantine/", "/doctor-"]
    lease   = ["/leases/"]
  }

  conditions = merge(
    {
      for role, folders in local.records : role => join("", [
        local.objects, " && (",
        join(" || ", [for folder in folders : "resource.name.extract(\"${folder}{rest}\") != \"\""]),
        ")", local.kept,
      ])
    },
    # Without a prefix there is nothing to tell apart.
    var.prefix == "" ? {} : {
      read    = local.objects
      write   = local.objects
      collect = local.objects
      uploads = local.listing
      list    = "${local.listing} || ${local.objects}"
    },
  )

  members = {
    for who, more in { trainer = var.trainer_members, reader = var.reader_members, gc = var.gc_members } :
    who => merge(
      { for member in more : member => member },
      var.create_service_accounts ? { account = google_service_account.this[who].member } : {},
    )
  }

  grants = merge(flatten([
    for who, roles in local.granted : [
      for role in roles : {
        for name, member in local.members[who] : "${who} ${role} ${name}" => { role = role, member = member }
      }
    ]
  ])...)

  role_prefix = coalesce(var.role_prefix, "ckptsync_${substr(sha256(var.bucket_name), 0, 8)}")
}

resource "google_service_account" "this" {
  for_each = var.create_service_accounts ? local.granted : {}

  project      = var.project
  account_id   = "${var.service_account_prefix}-${each.key}"
  display_name = "ckptsync: ${each.key} of ${var.bucket_name}"
}

resource "google_project_iam_custom_role" "this" {
  for_each = toset(flatten(values(local.granted)))

  project     = var.project
  role_id     = "${local.role_prefix}_${each.key}"
  title       = "ckptsync ${local.roles[each.key].title}"
  description = "Of the bucket ${var.bucket_name}."
  permissions = local.roles[each.key].permissions
}

resource "google_storage_bucket_iam_member" "this" {
  for_each = local.grants

  bucket = google_storage_bucket.this.name
  role   = google_project_iam_custom_role.this[each.value.role].name
  member = each.value.member

  dynamic "condition" {
    for_each = contains(keys(local.conditions), each.value.role) ? [local.conditions[each.value.role]] : []

    content {
      title      = "ckptsync ${each.value.role}"
      expression = condition.value
    }
  }
}
